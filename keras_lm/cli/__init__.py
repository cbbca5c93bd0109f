"""The console scripts. Each reads and checks its arguments first and imports TensorFlow only when work begins."""
