"""Looking inside trained models: memory over distance, recall, the states of a word in its contexts."""
