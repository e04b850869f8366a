"""Days of load under the chart's scaling rules: `python -m tests.kubernetes.scaling PLOT.png`."""
