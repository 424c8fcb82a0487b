"""Objectives that were never checked against their source; `experimental = true` allows them."""
