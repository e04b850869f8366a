"""A real API server of Kubernetes, its controllers and scheduler, over simulated nodes."""
