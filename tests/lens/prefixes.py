"""How many positions a melody model has in front of the music: counted here anew."""

from audio_lens import AudioLens


def n_prefix(lens: AudioLens, prompt: str) -> int:
    """Chroma frames and text tokens; 0 where the text is cross-attended."""
    if not lens.cfg.chroma_length:
        return 0
    return lens.cfg.chroma_length + len(lens.processor.tokenizer(prompt).input_ids)
