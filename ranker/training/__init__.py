"""From rows of labelled requests to a model directory."""
