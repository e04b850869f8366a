"""What is watched, declared once: objectives, alerts, dashboards. `generated/` is made of them."""
