"""Turn the equation of a docstring into MathML, which a browser shows without a script or a font from elsewhere."""

import re
import textwrap

from markupsafe import Markup, escape

SYMBOLS = {
    "mean": "μ", "var": "σ²", "weight": "γ", "bias": "β", "eps": "ε", "x_hat": "x̂", "alpha": "α", "beta": "β",
    "gamma": "γ", "sigma": "σ", "nu": "ν", "std": "s",
}  # fmt: skip
"""What the names of the code are called in papers."""
SUPERSCRIPTS = {"²": "2", "³": "3", "ᵀ": "T", "ᵗ": "t"}

SUB = r"_(?:\{[^}]*\}|\w+)"
TOKEN = re.compile(
    rf"(?P<space>\s*)(?:(?P<word>∂?[A-Za-zΑ-ω][A-Za-zΑ-ω0-9]*'?(?:{SUB})?)|(?P<number>\d+(?:\.\d+)?%?)"
    rf"|(?P<power>[²³ᵀᵗ])(?P<sub>{SUB})?|(?P<sign>//|->|\S))"
)


def of(docstring: str) -> str:
    """Return the first indented block of a docstring: the equation, empty if there is none."""
    blocks = re.findall(r"(?:^    .*\n?)+", docstring.partition("\nShape:")[0].partition("\nArgs:")[0], re.MULTILINE)
    return textwrap.dedent(blocks[0]).strip() if blocks else ""


def mathml(equation: str) -> Markup:
    """Return an equation line by line: as MathML what has a relation, as text the words that two spaces set off."""
    symbols = {
        name: symbol
        for name, symbol in SYMBOLS.items()
        if (symbol == "x̂" or symbol[0] not in equation) and not re.search(rf"\b{name}(?:\(|s? of\b)", equation)
    }
    lines = []
    for line in equation.replace("`", "").splitlines():
        parts = re.split(r" {2,}", line.strip())
        shown = (
            f"<math displaystyle='true'><mrow>{''.join(_Parser(part, symbols).row())}</mrow></math>"
            if re.search("[=←]", part)
            else f"<span>{_words(part, symbols)}</span>"
            for part in parts
        )
        lines.append(f"<div>{' '.join(shown)}</div>")
    return Markup("\n".join(lines))


def _words(text: str, symbols: dict[str, str]) -> str:
    def named(match: re.Match[str]) -> str:
        head, tail = _ordered(match[1], match[2] or "", symbols)
        return symbols.get(head, head) + (f"<sub>{tail}</sub>" if tail else "")

    return re.sub(r"([A-Za-z]+)(?:_(\w+))?", named, str(escape(text)))


def _ordered(head: str, tail: str, symbols: dict[str, str]) -> tuple[str, str]:
    """Return a name and its index: what stands for a symbol is the name, whichever comes first in the code."""
    return (tail, head) if tail and (head == "running" or (tail in symbols and head not in symbols)) else (head, tail)


class _Parser:
    """A parser by descent: fractions, roots, powers and indices are found, all else stands as it is written."""

    def __init__(self, text: str, symbols: dict[str, str]) -> None:
        self.tokens = [match.groupdict() for match in TOKEN.finditer(text)]
        self.symbols = symbols

    def row(self, end: str = "") -> list[str]:
        found: list[str] = []
        while self.tokens and not (end and self.tokens[0]["sign"] == end):
            token = self.tokens[0]
            if token["sign"] == "/" and token["space"] and found and len(self.tokens) > 1:
                self.tokens.pop(0)
                found.append(f"<mfrac>{_bare(found.pop())}{_bare(self.factor())}</mfrac>")
                continue
            both = found and not found[-1].startswith("<mo") and not (token["sign"] or "(") not in "(‖|["
            if token["space"] and both:
                found.append('<mspace width="0.3em"/>')
            found.append(self.factor())
        return found

    def factor(self) -> str:
        base = self.atom()
        while self.tokens:
            power, sub = self.tokens[0]["power"], self.tokens[0]["sub"]
            if power:
                self.tokens.pop(0)
                exponent = f"<mi>{SUPERSCRIPTS[power]}</mi>"
                base = f"<msubsup>{base}{_index(sub)}{exponent}</msubsup>" if sub else f"<msup>{base}{exponent}</msup>"
            elif self.tokens[0]["sign"] == "^" and len(self.tokens) > 1:
                self.tokens.pop(0)
                base = f"<msup>{base}{_bare(self.factor())}</msup>"
            else:
                break
        return base

    def atom(self) -> str:
        token = self.tokens.pop(0)
        if token["word"]:
            if token["word"] == "sqrt" and self.tokens and self.tokens[0]["sign"] == "(":
                return f"<msqrt>{_bare(self.atom())}</msqrt>"
            if token["word"] == "tr" and self.tokens:
                return f'<mrow><mi>tr</mi><mspace width="0.2em"/>{self.factor()}</mrow>'
            name = self.name(token["word"])
            applied = self.tokens and self.tokens[0]["sign"] in ("(", "[") and not self.tokens[0]["space"]
            return f"<mrow>{name}{self.atom()}</mrow>" if applied else name
        if token["number"]:
            return f"<mn>{token['number']}</mn>"
        sign = token["sign"] or token["power"]
        if sign in "(‖[|":
            close = {"(": ")", "[": "]"}.get(sign, sign)
            inner = "".join(self.row(close))
            end = self.tokens.pop(0)["sign"] if self.tokens else ""
            stretchy = ' stretchy="false"' if sign in "([" else ""
            fences = [f'<mo fence="true"{stretchy}>{each}</mo>' if each else "" for each in (sign, end)]
            return f"<mrow>{fences[0]}{inner}{fences[1]}</mrow>"
        return "<mi>∗</mi>" if sign == "*" else f"<mo>{escape(sign)}</mo>"

    def name(self, word: str) -> str:
        if word in self.symbols:
            return _symbol(self.symbols[word])
        head, _, tail = word.rpartition("_") if not word.endswith("}") else word.partition("_")
        if not head:
            return f"<mi>{escape(word)}</mi>"
        head, tail = _ordered(head, tail, self.symbols)
        base, index = self.symbols.get(head, head), _index(f"_{tail}")
        if base.endswith("²"):
            return f"<msubsup><mi>{base[:-1]}</mi>{index}<mn>2</mn></msubsup>"
        return f"<msub>{_symbol(base)}{index}</msub>"


def _symbol(symbol: str) -> str:
    if symbol == "x̂":
        return '<mover accent="true"><mi>x</mi><mo stretchy="false">^</mo></mover>'
    return f"<msup><mi>{symbol[:-1]}</mi><mn>2</mn></msup>" if symbol.endswith("²") else f"<mi>{escape(symbol)}</mi>"


def _index(sub: str) -> str:
    return f"<mi>{escape(sub[1:].strip('{}'))}</mi>"


def _bare(node: str) -> str:
    """Take off the parentheses that a fraction, root or power makes superfluous."""
    match = re.fullmatch(
        r'<mrow><mo fence="true" stretchy="false">\(</mo>(.*)<mo fence="true" stretchy="false">\)</mo></mrow>', node
    )
    return f"<mrow>{match[1]}</mrow>" if match else node
