//! Operations: the order of effects and their undoing.
