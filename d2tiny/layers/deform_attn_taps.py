"""Loops over the four taps of each sample of deformable attention, for numba kernels, in LLVM's vector language.

A tap is a row of an array of values and a share. The sum over the taps of a head must stay in registers: a loop in
Python keeps it in memory, because numba cannot know that values and sum are different arrays, and takes twice as long.
The row −1 stands for cells outside the map and padding: ``spare``, a row of zeros, is read instead.

All loops have the arguments ``(values, first, stride, cells, work, room, count, row, spare, depth)``: row ``cell`` of
the flat array ``values`` starts at ``first + cell · stride`` and has ``depth`` channels; tap k of sample i has the cell
``cells[k · room + i]``, the share ``work[(SHARE + k) · room + i]`` and the product ``work[(DOT + k) · room + i]``;
there are ``count`` ≥ 1 samples; ``row`` has ``depth`` channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

__all__ = ["DOT", "FAST", "SHARE", "add_to_taps", "dot_taps", "sum_taps"]

FAST = ("reassoc", "contract", "nsz")  # NaN and infinity keep their meaning
SHARE = 9  # first part of ``work``, each ``room`` long, four after each other
DOT = 13  # the part behind those
_BLOCK = 64  # channels of a sum: 4 sums of so many float32 fill half the registers of AVX-512
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_ARGUMENTS = ("values", "first", "stride", "cells", "work", "room", "count", "row", "spare")


class _Emitter:
    """Writes the instructions that the loops share; the arguments are its attributes, arrays as pointers."""

    values: Any
    first: Any
    stride: Any
    cells: Any
    work: Any
    room: Any
    count: Any
    row: Any
    spare: Any

    def __init__(self, context: Any, builder: Any, sig: Any, args: Any) -> None:
        self.builder = builder
        for name, kind, value in zip(_ARGUMENTS, sig.args, args, strict=False):
            array = isinstance(kind, types.Array)
            setattr(self, name, make_array(kind)(context, builder, value).data if array else value)
        self.real, self.align = context.get_data_type(sig.args[0].dtype), sig.args[0].dtype.bitwidth // 8
        depth = sig.args[-1].literal_value
        self.blocks = [(at, min(_BLOCK, depth - at)) for at in range(0, depth, _BLOCK)]

    def pointer(self, start: Any, shift: int, width: int) -> Any:
        at = self.builder.gep(start, [_I64(shift)])
        return self.builder.bitcast(at, ir.VectorType(self.real, width).as_pointer())

    def load(self, start: Any, shift: int, width: int) -> Any:
        return self.builder.load(self.pointer(start, shift, width), align=self.align)

    def store(self, vector: Any, start: Any, shift: int) -> None:
        self.builder.store(vector, self.pointer(start, shift, vector.type.count), align=self.align)

    def entry(self, array: Any, part: int, i: Any) -> Any:
        """Return the address of entry ``i`` of a part of ``cells`` or ``work``."""
        return self.builder.gep(array, [self.builder.add(i, self.builder.mul(self.room, _I64(part)))])

    def start(self, k: int, i: Any) -> Any:
        """Return the address of the row of tap ``k`` of sample ``i``."""
        cell = self.builder.load(self.entry(self.cells, k, i))
        shift = self.builder.add(self.first, self.builder.mul(self.builder.sext(cell, _I64), self.stride))
        missing = self.builder.icmp_signed("<", cell, _I32(0))
        return self.builder.select(missing, self.spare, self.builder.gep(self.values, [shift]))

    def share(self, k: int, i: Any, width: int) -> Any:
        """Return the share of a tap in all entries of a vector."""
        nothing = ir.Constant(ir.VectorType(self.real, width), ir.Undefined)
        one = self.builder.insert_element(nothing, self.builder.load(self.entry(self.work, SHARE + k, i)), _I32(0))
        return self.builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, width), [0] * width))

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        return self.builder.fadd(c, self.builder.fmul(a, b, flags=FAST), flags=FAST)

    def total(self, vector: Any) -> Any:
        """Return the sum of the entries of a vector."""
        name = f"llvm.vector.reduce.fadd.v{vector.type.count}f{8 * self.align}"
        function = self.builder.module.globals.get(name) or ir.Function(
            self.builder.module, ir.FunctionType(self.real, [self.real, vector.type]), name
        )
        return self.builder.call(function, [ir.Constant(self.real, 0.0), vector], fastmath=FAST)

    def loop(self, sums: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """Write ``for i in range(count): sums = body(i, sums)`` and return the sums."""
        builder, before = self.builder, self.builder.block
        inside, after = (builder.append_basic_block(name) for name in ("taps", "after_taps"))
        builder.branch(inside)
        builder.position_at_end(inside)
        i, carried = builder.phi(_I64), [builder.phi(x.type) for x in sums]
        new = body(i, carried)
        following = builder.add(i, _I64(1))
        for phi, at_first, later in zip((i, *carried), (_I64(0), *sums), (following, *new), strict=True):
            phi.add_incoming(at_first, before)
            phi.add_incoming(later, inside)
        builder.cbranch(builder.icmp_unsigned("<", following, self.count), inside, after)
        builder.position_at_end(after)
        return new


def _loop_over_taps(write: Callable[[_Emitter], None]) -> Any:
    """Make a function for numba kernels of what writes its instructions."""

    @intrinsic(prefer_literal=True)
    def function(typingctx, values, first, stride, cells, work, room, count, row, spare, depth):  # type: ignore[no-untyped-def]
        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            write(_Emitter(context, builder, sig, args))
            return context.get_dummy_value()

        number = types.int64
        return types.void(values, number, number, cells, work, number, number, row, spare, depth), codegen

    return function


def _write_sum(emit: _Emitter) -> None:
    for shift, width in emit.blocks:
        zero = ir.Constant(ir.VectorType(emit.real, width), [0.0] * width)

        def body(i: Any, sums: list[Any], shift: int = shift, width: int = width) -> list[Any]:
            values = [emit.load(emit.start(k, i), shift, width) for k in range(4)]
            return [emit.multiply_add(emit.share(k, i, width), values[k], sums[k]) for k in range(4)]

        a, b, c, d = emit.loop([zero] * 4, body)
        add = emit.builder.fadd
        emit.store(add(add(a, b), add(c, d)), emit.row, shift)


def _write_dot(emit: _Emitter) -> None:
    def body(i: Any, _: list[Any]) -> list[Any]:
        for k in range(4):
            start, result = emit.start(k, i), ir.Constant(emit.real, 0.0)
            for shift, width in emit.blocks:
                pair = emit.load(start, shift, width), emit.load(emit.row, shift, width)
                result = emit.builder.fadd(result, emit.total(emit.builder.fmul(*pair)), flags=FAST)
            emit.builder.store(result, emit.entry(emit.work, DOT + k, i))
        return []

    emit.loop([], body)


def _write_add(emit: _Emitter) -> None:
    def body(i: Any, _: list[Any]) -> list[Any]:
        for k in range(4):  # one after the other: two taps may be the same cell
            start = emit.start(k, i)
            for shift, width in emit.blocks:
                old, added = emit.load(start, shift, width), emit.load(emit.row, shift, width)
                emit.store(emit.multiply_add(emit.share(k, i, width), added, old), start, shift)
        return []

    emit.loop([], body)


sum_taps = _loop_over_taps(_write_sum)  # row = Σ share · values[cell]
dot_taps = _loop_over_taps(_write_dot)  # dot of each tap = Σ_c row[c] · values[cell, c]
add_to_taps = _loop_over_taps(_write_add)  # values[cell] += share · row; what is added to ``spare`` means nothing
