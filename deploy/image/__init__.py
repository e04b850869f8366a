"""How the image is built and judged."""
