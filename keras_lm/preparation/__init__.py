"""Large corpora: cut into sections, tokenized by many processes, written as shards."""
