"""Sound: clips, labelled synthesis and its words, and what is heard in it."""
