"""From a trained run to what runs without this library: a SavedModel for TF Serving."""
