"""HTML pages, SVG figures and lines for a terminal, whatever their subject."""
