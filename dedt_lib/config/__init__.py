"""How large everything is (a Profile), and which run is wanted (a Recipe)."""

from .profile import Profile, checked, load_profile, profile_names
from .recipe import Recipe
