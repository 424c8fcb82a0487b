"""Objectives of policy training: pure torch, independent of the trainer.

`catalog` lists names and settings (no torch), `registry` maps names to classes, `interface` has
the base class of an objective, and `compose` the class that a trainer calls.
"""
