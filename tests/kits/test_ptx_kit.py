"""The search for miscompiled code finds the code that was seen on a GPU, and leaves right code alone."""

from __future__ import annotations

from ptx_kit import miscompiled

SEEN = """
	and.b32 	%r7, %r3, 7;
	mul.wide.u32 	%rd16, %r3, 2147483648;
	cvt.u64.u32 	%rd17, %r7;
	shl.b64 	%rd18, %rd17, 34;
	or.b64 	%rd19, %rd16, %rd18;
	mov.b64 	{_, %r22}, %rd19;
"""
RIGHT = """
	mul.wide.u32 	%rd27, %r311, 4;
	mul.wide.s32 	%rd28, %r311, 65536;
	shl.b32 	%r116, %r7, 31;
"""


def test_the_code_that_gave_wrong_addresses_is_found() -> None:
    assert len(miscompiled(SEEN)) == 1 and "2147483648" in miscompiled(SEEN)[0]


def test_ordinary_address_arithmetic_is_not() -> None:
    assert miscompiled(RIGHT) == []
