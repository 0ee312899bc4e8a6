"""How the toy MusicGens that ship inside the package are trained and measured."""
