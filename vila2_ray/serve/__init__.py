"""The caption endpoint: a FastAPI app that knows no Ray, and the deployments that put it on a cluster."""
