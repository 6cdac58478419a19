"""The method: what a reader of the paper looks for. Of this package it rests on `errors` alone."""
