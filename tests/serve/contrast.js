// By element, how much each text of the page stands out from what is behind it (WCAG 2.2, 1.4.3).
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

function over(color, ground) {
  for (const each of [`rgb(${ground})`, color]) {
    canvas.fillStyle = each;
    canvas.fillRect(0, 0, 1, 1);
  }
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
}

function ground(element) {
  if (element === null) return [255, 255, 255];
  return over(getComputedStyle(element).backgroundColor, ground(element.parentElement));
}

function light(rgb) {
  const linear = rgb.map((each) => each / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

const found = {};
for (const element of document.querySelectorAll("body *")) {
  const says = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  if (!says || !element.checkVisibility()) continue;
  const behind = ground(element);
  const [low, high] = [light(behind), light(over(getComputedStyle(element).color, behind))].sort((a, b) => a - b);
  found[`${element.tagName} ${element.className} ${element.innerText.slice(0, 20)}`] = (high + 0.05) / (low + 0.05);
}
return found;
