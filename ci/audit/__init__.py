"""The instruction audit: which instruction sets a compiled file needs, in which functions, and who may use them.

binaries.py reads the files; x86.py and arm.py know what an instruction needs; scan.py brings them together; rules.py
judges our own wheels; processors.py knows what CPUs have; manifest.py writes it down; command.py is the command.
"""
