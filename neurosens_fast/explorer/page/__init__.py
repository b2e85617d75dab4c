"""The page itself: Bokeh models, a template, and scripts that link the views. Reads explorations, computes none."""
