"""Programs of XLA read: what moves between devices, and through memory."""

import pytest

from deeplab_jax.plan import hlo

# As XLA prints them: tuples, layouts with commas, tiles and memory spaces,
# asynchronous forms and what wraps them.
_PROGRAM = """\
HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (p: f32[8,128], q: bf16[16]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0), metadata={op_name="all-reduce(x)"}
  %q = bf16[16]{0:T(256)(128)(2,1)} parameter(1)
  %ar = (f32[64]{0:T(128)S(1)}, /*index=1*/f32[2,3]{1,0}) all-reduce(%p, %q), \
replica_groups=[1,4]<=[4], to_apply=%add
  %ars = f32[8,128]{1,0:T(8,128)} all-reduce-start(%p), channel_id=2
  %ard = f32[8,128]{1,0:T(8,128)} all-reduce-done(%ars)
  %ags = (bf16[16]{0:T(256)(128)(2,1)}, bf16[64]{0:T(256)(128)(2,1)}) \
all-gather-start(%q), dimensions={0}
  %agd = bf16[64]{0} all-gather-done(%ags)
  %rs = f32[2,128]{1,0} reduce-scatter(%p), dimensions={0}, to_apply=%add
  %cps = (s32[10]{0}, s32[10]{0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%x), source_target_pairs={{0,1}}
  ROOT %cpd = s32[10]{0} collective-permute-done(%cps)
}
"""


def test_collectives_are_counted_in_every_form():
  assert hlo.collectives(_PROGRAM, devices=4) == {
    "all-reduce": hlo.Collective(2, 64 * 4 + 6 * 4 + 8 * 128 * 4),
    "all-gather": hlo.Collective(1, 64 * 2),
    "reduce-scatter": hlo.Collective(1, 4 * 2 * 128 * 4),
    "collective-permute": hlo.Collective(1, 10 * 4),
  }


def test_a_scan_counts_as_often_as_it_runs():
  """Scans of three in one of four, in a loop of the compiler that counts once;
  20 bytes are reduced, 20 read and 20 written."""
  text = """\
%below_3 (i: s32[]) -> pred[] {
  %three = s32[] constant(3)
  %i = s32[] parameter(0)
  ROOT %lt = pred[] compare(%i, %three), direction=LT
}

%below_4 (i: s32[]) -> pred[] {
  %four = s32[]{:T(128)} constant(4)
  %i = s32[] parameter(0)
  ROOT %lt = pred[] compare(%i, %four), direction=LT
}

%inner (p: f32[5]) -> f32[5] {
  %p = f32[5]{0} parameter(0)
  ROOT %ar = f32[5]{0} all-reduce(%p), to_apply=%add
}

%outer (q: f32[5]) -> f32[5] {
  %q = f32[5]{0} parameter(0)
  ROOT %w = f32[5]{0} while(%q), condition=%below_3, body=%inner, \
metadata={op_name="jit(f)/while/body/while"}
}

%own (q: f32[5]) -> f32[5] {
  %q = f32[5]{0} parameter(0)
  ROOT %w = f32[5]{0} while(%q), condition=%below_4, body=%outer, \
metadata={op_name="jit(f)/while"}
}

ENTRY %main (r: f32[5], /*index=1*/s: f32[]) -> f32[5] {
  %r = f32[5]{0} parameter(0)
  ROOT %w = f32[5]{0} while(%r), condition=%below_3, body=%own
}
"""
  found = hlo.collectives(text, devices=2)
  assert found == {"all-reduce": hlo.Collective(12, 12 * 20)}
  compared = (4 + 4 + 1) * (1 + 1 * 4 + 4 * 3)
  assert hlo.memory_traffic(text) == 12 * 40 + compared


@pytest.mark.parametrize(
  ("kind", "sent"),
  [
    ("all-reduce", 2 * 100 * 3 / 4),
    ("all-gather", 100 * 3 / 4),
    ("reduce-scatter", 100 * 3 / 4),
    ("collective-permute", 100),
  ],
)
def test_bytes_sent_are_those_of_rings(kind, sent):
  """A ring in four: an all-reduce is a scatter and a gather of 3 quarters."""
  assert hlo.Collective(1, 100).sent(kind, devices=4) == sent


@pytest.mark.parametrize(
  ("shape", "size"),
  [
    ("f32[]", 4),
    ("pred[3,5]{1,0}", 15),
    ("bf16[16,257,257,64]{3,0,2,1:T(8,128)(2,1)}", 16 * 257 * 257 * 64 * 2),
    ("(s32[2]{0}, (u8[7]{0}, f8e4m3fn[3]{0}), token[])", 8 + 7 + 3),
    ("s4[10]{0:T(128)}", 5),
  ],
)
def test_array_bytes_of_shapes(shape, size):
  assert hlo.array_bytes(shape) == size


def test_memory_traffic_leaves_on_chip_memory_out():
  text = """
ENTRY %main (p: f32[100]) -> (f32[50]) {
  %p = f32[100]{0:T(128)} parameter(0)
  %start = (f32[100]{0:T(128)S(1)}, f32[100]{0}, u32[]) copy-start(%p)
  %near = f32[100]{0:T(128)S(1)} copy-done(%start)
  %y = f32[50]{0} fusion(%near, %p), kind=kLoop, calls=%fused
  %z = f32[50]{0:S(1)} fusion(%y), kind=kLoop, calls=%fused
  ROOT %t = (f32[50]{0:S(1)}) tuple(%z)
}
"""
  # The copy once; the fusion's result and far operand; the other's operand.
  assert hlo.memory_traffic(text) == 400 + (200 + 400) + 200
