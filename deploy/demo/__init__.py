"""`headrace demo`: the whole path once, on real events, with the real processes."""
