"""Train small transformers on real text and measure how induction heads form in them.

The road through the package, imports only going backward along it::

    config -> data -> tokens -> model -> loss -> snapshots -> train -> metrics -> ablations -> measure
           -> figures -> viz -> cli
"""

__version__ = "0.1.0"
