"""The study: whether a concept can be steered, how far, and beside what, stage by stage."""
