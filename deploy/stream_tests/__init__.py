"""What a user's own stream tests are written with; the fixtures are in `deploy.pytest_plugin`."""
