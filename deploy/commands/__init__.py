"""The commands, one module per group; `deploy.cli` is their table of contents."""
