"""Parts of sentences."""

from collections.abc import Collection, Iterable


def counted(names: Collection[str]) -> str:
    """Names with their number: 2 (cat, dog), or none."""
    return f"{len(names)} ({listed(names)})" if len(names) else "none"


def listed(names: Iterable[str]) -> str:
    """Names separated by commas, or none."""
    return ", ".join(names) or "none"


def seeds_listed(seeds: Collection[int]) -> str:
    """Seeds as text: seed 3, or seeds 0, 1, 2."""
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def p_in_words(p: float) -> str:
    """A p-value to be written after the letter p: = 0.35, < 0.001."""
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"
