"""What pages, reports and their plots are made of: words, figures, pictures and templates; no HTTP, no files of a home."""
