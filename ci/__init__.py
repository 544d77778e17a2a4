"""The release harness: a package run from the checkout (`python -m ci`), never part of a wheel."""
