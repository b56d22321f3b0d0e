"""One module a study: its layout, label table, splits, published numbers, presets and profiles."""
