"""Models: forests and their kernel, calibration, the value of an item, explanations."""
