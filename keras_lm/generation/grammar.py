"""Context-free grammars for `allow`, in the notation of Lark (https://lark-parser.readthedocs.io), which reads and checks them.

JSON, arithmetic, a query language: what nests, no regular expression can say. Up to a depth it can, and so a grammar becomes an automaton
as `Regex` and `Choice` do; the sampler knows no difference.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from keras_lm.errors import UserError, unknown_name
from keras_lm.generation import constraints, networks
from keras_lm.text_codec import NUM_SPECIAL

if TYPE_CHECKING:
    from keras_lm.generation.automata import Constraint

_PACKAGED = pathlib.Path(__file__).parent / "grammars"

PACKAGED = tuple(sorted(path.stem for path in _PACKAGED.glob("*.lark")))
"""The grammars that `Grammar.named` knows."""


@dataclasses.dataclass(frozen=True)
class Grammar:
    """Texts that a context-free grammar derives, with nesting bounded.

    A text is what the rules say, letter by letter: what stands under `%ignore` is never written, and a longer or more important terminal
    takes nothing from another one. Lark's Earley parser with `lexer="dynamic_complete"` parses every such text; its faster lexers may
    split a text another way where the grammar leaves that open.

    Args:
        text: Rules and terminals. What terminals match is read in the syntax of Rust's regex crate, as by `Regex`.
        start: The rule of a whole text.
        depth: How deep rules may nest in themselves, such as brackets in brackets; lists, and rules that repeat at their beginning or end,
            cost nothing. With each level the states are multiplied by the kinds of brackets; 5 is more than most texts have, and takes
            half a second for JSON over 5,000 characters.

    Raises:
        UserError: a negative depth; from `compile`: a grammar that cannot be read, an unknown start, look-around or back-references in a
            terminal, indirect left recursion, too many states, or no text that is within the depth and can be written by the tokenizer.

    Example:

    >>> sums = Grammar('start: start "+" term | term\\nterm: "1" | "(" start ")"', depth=1)
    >>> from keras_lm.tokenizers import CharacterTokenizer
    >>> tokenizer = CharacterTokenizer(["+", "1", "(", ")"])
    >>> constraint = sums.compile(tokenizer.pieces())
    >>> [tokenizer.vocabulary[token - 4] for token in constraint.tokens[: constraint.starts[1]]]  # what a text may begin with
    ['1', '(']

    References:
        https://lark-parser.readthedocs.io/en/stable/grammar.html
    """

    text: str
    start: str = "start"
    depth: int = 5

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise UserError(f"depth must be 0 or more, got {self.depth}")

    @classmethod
    def named(cls, name: str, start: str = "start", depth: int = 5) -> Grammar:
        """A grammar of the package.

        Args:
            name: `"json"`: RFC 8259, with no white space but one space, or none, behind commas and colons; it may start with `"object"`,
                `"array"` or any value.
            start, depth: As in `Grammar`.

        Raises:
            UserError: an unknown name.
        """
        if name not in PACKAGED:
            raise unknown_name("grammar", name, PACKAGED)
        return cls((_PACKAGED / f"{name}.lark").read_text(encoding="utf-8"), start, depth)

    def compile(self, pieces: Sequence[bytes], special: Collection[int] = range(NUM_SPECIAL)) -> Constraint:
        """As `Pattern.compile`."""
        from keras_lm.generation.automata import Constraint  # with TensorFlow, which the command line does without until all is checked

        return Constraint.of(constraints.token_edges(self.automaton(), pieces, f"grammar {constraints.shown(self.text)}", special))

    def automaton(self) -> constraints.ByteAutomaton:
        """The automaton over bytes, which is the same for every tokenizer; `compile` says what it refuses."""
        return _automaton(self)


@functools.lru_cache(maxsize=4)
def _automaton(grammar: Grammar) -> constraints.ByteAutomaton:
    rules, terminals = _read(grammar)
    return networks.unfolded(rules, terminals, grammar.start, grammar.depth)


def _read(grammar: Grammar) -> tuple[networks.Rules, dict[str, constraints.ByteAutomaton]]:
    """Productions and terminals, as Lark has them."""
    import lark

    class NoLexer(lark.lexer.Lexer):
        """Texts are never parsed; Lark's own lexers would hold terminals to Python's regular expressions."""

        def __init__(self, conf: lark.common.LexerConf):
            pass

        def lex(self, *_):
            raise NotImplementedError

    try:
        read = lark.Lark(grammar.text, start=grammar.start, parser="earley", lexer=NoLexer)
    except (lark.exceptions.LarkError, OSError) as error:
        reason = " ".join(str(error).partition("\n")[0].replace(" in <string>", "").strip(": ").split())
        if reason == f"Using an undefined rule: NonTerminal({grammar.start!r})":
            reason = f"it has no rule {grammar.start!r} to start with"
        raise UserError(f"the grammar cannot be used: {reason}") from None
    rules: dict[str, list[tuple[str, ...]]] = {}
    for rule in read.rules:
        rules.setdefault(str(rule.origin.name), []).append(tuple(str(symbol.name) for symbol in rule.expansion))
    patterns = {terminal.name: terminal.pattern for terminal in read.terminals}
    used = {symbol for productions in rules.values() for symbols in productions for symbol in symbols if symbol not in rules}
    if missing := sorted(used - patterns.keys()):
        raise UserError(f"the grammar cannot be used: nothing says what {missing[0]} is")
    return rules, {name: _terminal(name, patterns[name]) for name in sorted(used)}


def _terminal(name: str, pattern) -> constraints.ByteAutomaton:
    """The automaton of one of Lark's terminals."""
    if pattern.type == "str" and not pattern.flags:
        return constraints.read_strings([pattern.value])
    try:
        return constraints.read_pattern(pattern.to_regexp())
    except UserError as error:
        raise UserError(f"the terminal {name} of the grammar: {error}") from None
