// Writes label maps as PNG files whose pixels are the class numbers themselves.
//
// A canvas cannot: what it saves is colours, of 8 bits a channel.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const GREY = 0, PALETTE = 3;

// A PNG of labels: an indexed one of 8 bits whose palette is `colors`, or, for
// labels of 16 bits, a grey one.
export async function labelPng(labels, width, height, colors) {
  const wide = labels.BYTES_PER_ELEMENT === 2;
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([wide ? 16 : 8, wide ? GREY : PALETTE], 8);
  const parts = [new Uint8Array(SIGNATURE), chunk("IHDR", header)];
  if (!wide) parts.push(chunk("PLTE", new Uint8Array(colors.flat())));
  const content = await deflate(rows(labels, width, height, wide));
  parts.push(chunk("IDAT", content), chunk("IEND", new Uint8Array(0)));
  return new Blob(parts, {type: "image/png"});
}

// Each row of pixels behind a 0, "not filtered"; 16 bits, high byte first.
function rows(labels, width, height, wide) {
  const length = 1 + width * (wide ? 2 : 1);
  const found = new Uint8Array(height * length);
  for (let y = 0, at = 0; y < height; y++) {
    at++;
    for (let x = 0; x < width; x++) {
      const label = labels[y * width + x];
      if (wide) found[at++] = label >> 8;
      found[at++] = label & 255;
    }
  }
  return found;
}

async function deflate(bytes) {
  const packed = new Blob([bytes]).stream()
    .pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(packed).arrayBuffer());
}

// Length, name, content, and the checksum of name and content.
function chunk(name, content) {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set([...name].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(content, 8);
  view.setUint32(8 + content.length, crc(bytes.subarray(4, -4)));
  return bytes;
}

const CRC_OF_BYTE = Uint32Array.from({length: 256}, (_, value) => {
  for (let bit = 0; bit < 8; bit++) {
    value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  }
  return value;
});

function crc(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) {
    value = CRC_OF_BYTE[(value ^ byte) & 255] ^ (value >>> 8);
  }
  return (value ^ 0xffffffff) >>> 0;
}
