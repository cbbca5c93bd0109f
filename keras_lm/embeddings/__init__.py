"""Vectors for words, learnt from the words around them: Word2Vec and GloVe."""
