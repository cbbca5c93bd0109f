"""From a model and a prompt to text: state (any causal model, step by step), filters, sampler, and the text-level façade."""
