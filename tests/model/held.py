"""Whole texts held to a schema, as decoding holds one token after the other."""

from text2sql.model.references import Reading


def admits(references, text, ended=False):
    """Whether a query may begin with `text`, or, if it has `ended`, be it."""
    reading = Reading(references).after(text)
    return reading is not None and (not ended or reading.complete())


def accepts(constraint, tokens):
    """Whether the tokens, one after the other, are a whole query; uses the constraint up."""
    try:
        for token in tokens:
            constraint.accept(token)
    except ValueError:
        return False
    return constraint.matcher.is_accepting() and constraint.refers(constraint._tokenizer.eos_token)
