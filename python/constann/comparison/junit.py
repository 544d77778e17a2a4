"""Writes a comparison as JUnit XML: a test case for each stage, failed where machines differ."""

import re
from xml.etree import ElementTree

from constann.comparison.comparing import Comparison
from constann.comparison.text import element_sentence, group_names, neighbours_sentence

__all__ = ["junit"]

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(found: Comparison) -> str:
    """Return the XML document."""
    failed = sum(not each.agrees for each in found.stages)
    suite = ElementTree.Element(
        "testsuite", name="constann compare", tests=str(len(found.stages)), failures=str(failed), errors="0"
    )
    for stage in found.stages:
        case = ElementTree.SubElement(suite, "testcase", classname="stage", name=_text(stage.name))
        if stage.agrees:
            continue
        lines = []
        for group, each in zip(stage.groups[1:], stage.differences, strict=True):
            lines += [f"{group_names(found, group)} against {group_names(found, stage.groups[0])}:"]
            lines += element_sentence(found, each)
        lines += [neighbours_sentence(each) for each in stage.neighbours]
        failure = ElementTree.SubElement(case, "failure", message=_text(stage.differences[0].sentence))
        failure.text = _text("\n".join(lines))
    whole = ElementTree.Element("testsuites")
    whole.append(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(whole, "unicode") + "\n"


def _text(said: str) -> str:
    return _NOT_XML.sub("?", said)
