"""Tasks that a text goes into and another comes out of: how their answers are judged, and what they have to beat."""
