"use strict";
(() => {
const root = document.documentElement, byId = (id) => document.getElementById(id), all = (what, within = document) => [...within.querySelectorAll(what)];
const dark = matchMedia("(prefers-color-scheme:dark)"), query = new URLSearchParams(location.search);
let theme = query.get("theme"), store = {};
try { store = localStorage; } catch {}
theme ||= store.graphflowTheme;
if (theme === "dark" || theme === "light") root.dataset.theme = theme;

// words
const zone = query.get("tz") === "utc" ? {timeZone: "UTC"} : {};
const two = (n) => String(Math.floor(n)).padStart(2, 0);
function took(s) {
	if (s < 60) return Math.floor(s) + " s";
	const m = Math.floor(s / 60), h = Math.floor(m / 60);
	if (h >= 48) return Math.floor(h / 24) + " d";
	return h ? `${h} h ${two(m % 60)} min` : `${m} min ${two(s % 60)} s`;
}
function ago(s) {
	if (s < 5) return "now";
	const [unit, size] = s < 60 ? ["s", 1] : s < 3600 ? ["min", 60] : s < 172800 ? ["h", 3600] : ["d", 86400];
	return `${Math.floor(s / size)} ${unit} ago`;
}
function times(within) {
	const now = Date.now();
	for (const each of all("time", within)) {
		const since = each.dataset.since;
		const at = new Date(since || each.dateTime), seconds = Math.max(0, (now - at) / 1000);
		const full = at.toLocaleString("sv", {...zone, timeZoneName: "short"});
		each.title = `${full} (${each.dateTime || since})`;
		const form = each.dataset.form;
		const text = since ? took(seconds) : form === "ago" ? ago(seconds) : form === "full" ? full : at.toLocaleTimeString("sv", zone);
		if (each.textContent !== text) each.textContent = text;
	}
}

// morphing
function morph(old, wanted) {
	if (old.hasAttribute("data-keep")) return;
	for (const each of [...old.attributes]) {
		if (!wanted.hasAttribute(each.name) && each.name !== "open" && each.name !== "title") old.removeAttribute(each.name);
	}
	for (const each of wanted.attributes) {
		if (old.getAttribute(each.name) !== each.value && each.name !== "open") old.setAttribute(each.name, each.value);
	}
	children(old, wanted);
}
function children(old, wanted) {
	const keyed = new Map();
	for (const each of old.children) if (each.dataset.key) keyed.set(each.dataset.key, each);
	let at = old.firstChild;
	for (const each of [...wanted.childNodes]) {
		const key = each.dataset?.key;
		const known = key ? keyed.get(key) : at?.dataset?.key ? null : at;
		if (known && known.nodeName === each.nodeName) {
			if (known === at) at = at.nextSibling; else old.insertBefore(known, at);
			if (known.nodeType === 1) morph(known, each);
			else if (known.nodeValue !== each.nodeValue) known.nodeValue = each.nodeValue;
		} else old.insertBefore(each, at);
	}
	while (at) { const next = at.nextSibling; at.remove(); at = next; }
}
function update(name, html) {
	const part = document.querySelector(`[data-part="${name}"]`);
	const fresh = part.cloneNode(false);
	fresh.innerHTML = html;
	times(fresh);
	const log = part.querySelector(".log");
	const atEnd = log && log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
	children(part, fresh);
	if (atEnd) log.scrollTop = log.scrollHeight;
	filter();
}

// staying live
let tag, wait, timer, failures = 0;
async function refresh() {
	clearTimeout(timer);
	const url = new URL(location.href);
	url.searchParams.set("part", "live");
	try {
		const answer = await fetch(url, {headers: {"If-None-Match": `"${tag}"`}, signal: AbortSignal.timeout(10000)});
		if (answer.status === 401) { location.reload(); return; }
		if (answer.status !== 304) {
			if (!answer.ok) throw new Error(answer.status);
			const found = await answer.json();
			tag = found.tag;
			for (const [name, html] of Object.entries(found.html)) update(name, html);
			if (found.columns) { columns = found.columns; draw(); }
			if (found.over) { wait = 0; document.body.dataset.live = "over"; }
		}
		failures = 0;
		banner("");
	} catch {
		failures += 1;
		banner("The server does not answer. What is shown is from before.");
	}
	plan();
}
function banner(text) {
	Object.assign(byId("banner"), {textContent: text, hidden: !text});
}
function plan() {
	if (wait && !document.hidden) timer = setTimeout(refresh, Math.min(15000, wait * 2 ** failures));
}

// plots
let columns = {}, skeletons = null;
const plots = new Map();
const script = (src) => new Promise((done, failed) => {
	const made = document.createElement("script");
	Object.assign(made, {src, onload: done, onerror: failed});
	document.head.append(made);
});
async function draw() {
	for (const [place] of plots) if (!place.isConnected) plots.delete(place);
	const places = all("[data-plot]").filter((each) => !plots.has(each));
	if (places.length) {
		const inside = byId("skeletons"), from = document.body.dataset;
		if (!inside && !from.plots) return;
		skeletons ??= inside ? JSON.parse(inside.textContent) : await (await fetch(from.plots)).json();
		if (!window.Bokeh) await script(from.bokeh);
		for (const place of places) {
			Bokeh.logger.set_level("warn");
			const views = await Bokeh.embed.embed_item(filled(skeletons[place.dataset.plot]), place);
			plots.set(place, [...views.roots][0].model.document);
		}
	}
	for (const [, made] of plots) { feed(made); colour(made); }
}
function filled(skeleton) {
	// Axes of nothing have no ranges.
	return JSON.parse(JSON.stringify(skeleton), (_, each) => {
		const data = each?.type === "object" && columns[each.attributes?.name];
		if (data) Object.assign(each.attributes, Array.isArray(data) ? {factors: data} : {data: {type: "map", entries: Object.entries(data)}});
		return each;
	});
}
function feed(made) {
	for (const [name, data] of Object.entries(columns)) {
		const model = made.get_model_by_name(name);
		if (model && name !== "lanes") model.data = data;
		else if (model && String(model.factors) !== String(data)) model.factors = data;
	}
	const height = Math.max(120, Math.min(560, 70 + 24 * (columns.lanes || []).length)), plot = made.get_model_by_name("timeline-plot");
	if (plot) plot.height = height;
}
function colour(made) {
	const style = getComputedStyle(root), of = (name) => style.getPropertyValue("--" + name).trim();
	for (const plot of made.roots()) {
		for (const axis of [...plot.below, ...plot.left]) axis.setv({major_label_text_color: of("mut"), axis_label_text_color: of("mut")});
		for (const grid of plot.center) if ("grid_line_color" in grid) grid.grid_line_color = grid.dimension === (plot.name === "timeline-plot" ? 1 : 0) ? null : of("line");
	}
	for (const [name, what, variable = name] of [["completed", "fill"], ["failed", "fill"], ["running", "fill"], ["line", "line", "mut"], ["word", "text", "mut"]]) {
		made.get_model_by_name(name)?.setv({[what + "_color"]: {value: of(variable)}});
	}
}

const recolour = () => plots.forEach(colour);

// what people do
function filter() {
	for (const input of all("[data-filter]")) {
		const wanted = input.value.toLowerCase();
		for (const line of byId(input.dataset.filter).children) line.hidden = !line.textContent.toLowerCase().includes(wanted);
	}
}
function strip(event) {
	const svg = event.target.closest("svg.strip"), holder = svg?.closest("[data-strip]");
	if (!svg) return;
	const box = svg.getBoundingClientRect(), d = svg.dataset;
	const column = Math.floor((event.clientX - box.left) / box.width * d.columns), row = Math.floor((event.clientY - box.top) / box.height * d.rows);
	const first = (row * d.columns + column) * d.cell, last = Math.min(d.size, first + +d.cell) - 1;
	if (!(first <= last) || column < 0 || row < 0) return;
	if (event.type === "click") { if (holder) location.href = `${holder.dataset.strip}?start=${first}`; return; }
	const look = event.target === svg ? "" : ": " + event.target.getAttribute("class").replace("f-", "").replace(/tint\d/, "some failed");
	let title = svg.querySelector("title");
	if (!title) svg.append(title = document.createElementNS(svg.namespaceURI, "title"));
	title.textContent = (first === last ? "item " + first : `items ${first}–${last}`) + look;
}
function keys(event) {
	if (event.target.closest("input,select,textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
	if (event.key === "/") { event.preventDefault(); byId("find")?.focus(); }
	else if (event.key === "r" && tag) refresh();
	else if (event.key === "t") change();
}
function change() {
	const now = root.dataset.theme || (dark.matches ? "dark" : "light");
	root.dataset.theme = now === "dark" ? "light" : "dark";
	store.graphflowTheme = root.dataset.theme;
	recolour();
}
async function login(token) {
	const {login: address, next} = document.body.dataset;
	const answer = await fetch(address, {method: "POST", headers: {Authorization: "Bearer " + token, "X-Graphflow": "1"}});
	if (answer.ok) location.replace(next);
	else byId("said").textContent = "This token is not valid any more, or never was.";
}

document.addEventListener("DOMContentLoaded", async () => {
	const body = document.body;
	times(document);
	setInterval(() => times(document), 1000);
	const on = (what, act) => document.addEventListener(what, act);
	on("keydown", keys);
	on("click", strip);
	on("mousemove", strip);
	on("input", filter);
	on("change", (event) => { if ("go" in event.target.dataset) event.target.form.submit(); });
	on("click", (event) => {
		const copied = event.target.closest("[data-copy]");
		if (copied) navigator.clipboard?.writeText(copied.dataset.copy);
		if (event.target.closest("#theme")) change();
	});
	dark.addEventListener("change", recolour);
	for (const log of all(".log:not(.long)")) log.scrollTop = log.scrollHeight;
	if (body.dataset.login) {
		const token = new URLSearchParams(location.hash.slice(1)).get("token");
		history.replaceState(null, "", location.pathname + location.search);
		byId("login").addEventListener("submit", (event) => { event.preventDefault(); login(event.target.elements.token.value); });
		if (token) await login(token);
	}
	if (body.dataset.live) {
		tag = body.dataset.tag || "";
		wait = Number(body.dataset.live) || 0;
		on("visibilitychange", () => { if (!document.hidden && wait) refresh(); else clearTimeout(timer); });
		plan();
		const given = byId("columns");
		if (given) columns = JSON.parse(given.textContent);
		try { await draw(); } catch (error) { console.error(error); }
	}
	root.dataset.ready = "1";
});
})();
