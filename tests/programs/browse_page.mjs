// Uses an exported page in headless Chromium as a visitor would.
//
//   node browse_page.mjs ADDRESS OUT PICTURE...
//
// Has the page segment its sample, each PICTURE and what a made-up camera shows,
// saves the label maps and screenshots to OUT, and prints what it saw as JSON.
// Of the network, it reaches 127.0.0.1 alone. It is run in a folder where npm
// has installed puppeteer-core and @sparticuz/chromium.

import {basename} from "node:path";

import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const [address, out, ...pictures] = process.argv.slice(2);
const found = {errors: [], refused: [], answers: {}};
const browser = await puppeteer.launch({
  executablePath: await chromium.executablePath(),
  headless: "shell",
  args: [
    "--no-sandbox",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
  ],
});
const page = await browser.newPage();
page.setDefaultTimeout(300_000);
page.on("console", (message) => {
  if (["error", "warn"].includes(message.type())) {
    found.errors.push(message.text());
  }
});
page.on("pageerror", (error) => found.errors.push(error.message));
page.on("requestfailed", (request) => found.refused.push(request.url()));
const session = await browser.target().createCDPSession();
await session.send("Browser.setDownloadBehavior", {
  behavior: "allow", downloadPath: out, eventsEnabled: true,
});

const text = (id) => page.$eval(`#${id}`, (shown) => shown.innerText);

// Waits until the page is done and says something that begins with `start`.
async function status(start) {
  await page.waitForFunction((start) => {
    const shown = document.getElementById("status");
    const done = !document.querySelector("#frame.busy");
    return shown.classList.contains("wrong")
      || done && shown.textContent.startsWith(start);
  }, {}, start);
  const shown = await text("status");
  if (!shown.startsWith(start)) throw new Error(shown);
}

async function save(name) {
  const saved = new Promise((resolve) => session.on(
    "Browser.downloadProgress",
    ({state}) => state === "completed" && resolve()));
  await page.click("#save");
  await saved;
  const names = ["title", "network", "status", "time", "size", "legend",
    "absent", "license", "source", "proof", "limits"];
  const told = names.map(async (id) => [id, await text(id)]);
  found.answers[name] = Object.fromEntries(await Promise.all(told));
}

async function shoot(name, width, height, scheme) {
  await page.setViewport({width, height});
  await page.emulateMediaFeatures([
    {name: "prefers-color-scheme", value: scheme},
  ]);
  await page.screenshot({path: `${out}/${name}.png`, fullPage: true});
}

await page.setViewport({width: 1280, height: 900});
await page.goto(address);
await status("sample.jpg");
await save("sample.jpg");
await shoot("desktop", 1280, 900, "light");
await shoot("dark", 1280, 900, "dark");
await shoot("narrow", 390, 844, "light");
for (const picture of pictures) {
  await (await page.$("#file")).uploadFile(picture);
  await status(basename(picture));
  await save(basename(picture));
}
await shoot("picture", 1280, 900, "light");
await page.click("#legend button");
await page.$eval("#opacity", (slider) => {
  slider.value = 90;
  slider.dispatchEvent(new Event("input"));
});
await shoot("alone", 1280, 900, "light");
found.alone = await page.$eval("#overlay", (overlay) => {
  const {width, height} = overlay;
  const rgba = overlay.getContext("2d").getImageData(0, 0, width, height).data;
  return rgba.filter((value, i) => i % 4 === 3 && value).length
    / (width * height);
});
await page.click("#legend button");
await page.click("#camera");
await status("The camera is on");
await page.click("#camera");
await status("The last picture");
await save("camera");
// Names of classes are no HTML: there is one script, and no picture.
found.elements = await page.$$eval("script, img, b", (all) => all.length);
console.log(JSON.stringify(found));
await browser.close();
