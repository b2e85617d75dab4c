"""Neuron sensitivity inside other libraries; each module needs its library, and nothing here is imported without it.

``adapters.torchmetrics.NeuronSensitivity`` is a torchmetrics metric, ``adapters.lightning.SensitivityCallback`` a
Lightning callback. ``pip install neurosens-fast[adapters]`` installs both libraries. ``adapters.attacks`` turns attacks
of torchattacks, foolbox and AutoAttack into attacks of this package; it needs none of them to be imported.
"""
