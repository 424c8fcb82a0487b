"""Objectives of policy training: pure torch, no trainer.

`catalog` has their names and settings (no torch), `registry` their classes, `interface` what an
objective may do, and `compose` what a trainer calls.
"""
