"""A Profile holds the sizes and rates of a run, a Recipe says which run is wanted."""

from typing import TYPE_CHECKING, Any

from .recipe import Recipe

if TYPE_CHECKING:
    from .profile import Profile, checked, load_profile, profile_names

__all__ = ["Profile", "Recipe", "checked", "load_profile", "profile_names"]


def __getattr__(name: str) -> Any:
    """Import the names of ``profile`` on first use: the help of a verb needs only the recipe."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import profile

    return getattr(profile, name)
