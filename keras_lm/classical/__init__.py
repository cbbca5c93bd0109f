"""What came before neural language models: counts of words, and n-grams."""
