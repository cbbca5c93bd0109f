"""A local server for an export: TF Serving's routes, OpenAI's, and a page to try a model."""
