"""Request to ranked feed: features, model, page."""
