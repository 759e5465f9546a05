"""The names of the files of a model, by what reads them. Pure."""

# The files that a value can depend on, by what reads them. Anything else in the folder (results of evaluations, states
# of trainers, licences) can come and go without moving the cells to another address. Nothing here is unpickled.
_WEIGHTS = (
    "*.safetensors",
    "*.safetensors.index.json",  # which of them hold the model, where there are several
)
_CONFIGURATION = (
    "config.json",
    # Changes no log-probability. It stays in the list because most models have it, so that their digests stay as well.
    "generation_config.json",
)
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    # Every vocabulary that a tokenizer of transformers 5 reads, and those of mistral-common and of older tokenizers.
    *("vocab.json", "vocab.txt", "merges.txt", "dict.txt", "entity_vocab.json", "emoji.json", "byte_maps.json"),
    *("prophetnet.tokenizer", "tekken.json", "vocab.bpe", "bpe.codes"),
    *("*.model", "*.tiktoken"),  # vocabularies of SentencePiece and tiktoken
    *("*.jinja", "additional_chat_templates/*.jinja"),  # chat templates
)
_ENCODER = (
    "modules.json",  # of sentence-transformers: its layers after the transformer, each with a folder
    "config_sentence_transformers.json",  # prompts, and which of them is the default
    "sentence_*_config.json",  # how long a text may be
)
ENCODER_MODULE = ("config.json", "*.safetensors")  # in the folder of a layer
CODE = ("*.py",)  # the model's own code; loaded, and part of what a value depends on, only if the user trusts it
FILES = (*_WEIGHTS, *_CONFIGURATION, *_TOKENIZER, *_ENCODER)
# Small files by which a folder without a model is recognised, before gigabytes of it are downloaded.
MARKERS = ("config.json", "modules.json", "adapter_config.json", "model_index.json", "params.json", "dataset_*.json")
DOWNLOADED = (*FILES, *CODE, *MARKERS, *(f"*/{pattern}" for pattern in ENCODER_MODULE))
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tokenizer_config.json")
