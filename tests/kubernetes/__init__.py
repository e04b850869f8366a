"""The chart, rendered by Helm and judged without a cluster; in a real API server by opt-in."""
