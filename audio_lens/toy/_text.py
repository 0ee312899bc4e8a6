"""The toy's reading: a byte-level tokenizer that takes any text, and the processor around it."""

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import EncodecFeatureExtractor, MusicgenProcessor, PreTrainedTokenizerFast

from audio_lens.audio import words

PAD, EOS = "<pad>", "</s>"
_MOST_ENTRIES = 1024


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every word of training is one token.

    All 256 bytes are entries, so that no text is refused and nothing becomes an unknown token;
    words the toy has never heard are spelled in bytes that training never taught it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(",", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_MOST_ENTRIES,
        min_frequency=1,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(words.vocabulary()), ","], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, model_max_length=128
    )


def build_processor(sample_rate: int) -> MusicgenProcessor:
    """Tokenizer and feature extractor in the class that MusicGen's users know."""
    extractor = EncodecFeatureExtractor(feature_size=1, sampling_rate=sample_rate)
    return MusicgenProcessor(extractor, build_tokenizer())
