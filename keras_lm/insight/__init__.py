"""Looking inside trained models: memory over distance, recall, states, gates, attention, what tokens count for, what each layer says."""
