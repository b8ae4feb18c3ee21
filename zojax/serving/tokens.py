"""``/tokenize``, ``/detokenize`` and ``/tokenizer_info``, as vLLM has them."""

from typing import Any

from zojax.errors import InputError
from zojax.serving.chat import chat_ids
from zojax.serving.schema import DetokenizeBody, TokenizeBody
from zojax.serving.service import Service


def tokenize(service: Service, body: TokenizeBody) -> dict[str, Any]:
    """The tokens of a text, or of a chat as the model's template writes it.

    Raises:
        ApiError: the model has no chat template.
        InputError: the text is too long, or the template refuses the chat.
    """
    if body.messages is not None:
        ids = chat_ids(service, body.messages, is_answered=not body.add_generation_prompt)
        adds = body.add_special_tokens is True  # beside what the template writes
    else:
        text = body.prompt or ""
        service.check_characters(text)
        ids, adds = service.tokenizer.ids(text), body.add_special_tokens is not False
    if adds and service.tokenizer.bos is not None:
        ids = [service.tokenizer.bos, *ids]
    texts = [service.token_text(id_) for id_ in ids] if body.return_token_strs else None
    return {
        "count": len(ids),
        "max_model_len": service.max_length,
        "tokens": ids,
        "token_strs": texts,
    }


def detokenize(service: Service, body: DetokenizeBody) -> dict[str, str]:
    """The text of tokens, special ones included.

    Raises:
        InputError: one is not the model's.
    """
    size = service.tokenizer.vocab_size
    if any(token >= size for token in body.tokens):
        raise InputError(f"tokens: the model's are 0 to {size - 1}")
    found = service.tokenizer.tokens.decode(body.tokens, clean_up_tokenization_spaces=False)
    return {"prompt": found}


def tokenizer_info(service: Service) -> dict[str, Any]:
    """What clients that tokenise themselves want to know."""
    tokens = service.tokenizer.tokens
    special = {
        name: token for name, token in tokens.special_tokens_map.items() if isinstance(token, str)
    }
    template = getattr(tokens, "chat_template", None)
    return {
        "tokenizer_class": type(tokens).__name__,
        "model_max_length": service.max_length,
        "vocab_size": service.tokenizer.vocab_size,
        "chat_template": template if isinstance(template, str) else None,
        **special,
    }
